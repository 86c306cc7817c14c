"""Unnamed statements that run as prepared ones of their link: nobody sees it but the servers, which parse less.

Beside one Postgres, message by message. All clients share one link to each shard, which keeps few statements. Whether a
statement was shared is told by what the proxy counts: Parse messages of clients, and those that shards got.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from tests.integration.conftest import made_town
from waiting import eventually
from wire_client import SYNC, Twins, WireClient, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeDatabases, StartProxy
    from tests.integration.conftest import Town

WHO = {"admins": "postgres", "readers": "watcher"}
LIMITS = {"pool": {"size": 1, "wait_timeout_s": 5}, "statements": {"per_link": 4}}
TIMES = 4  # read, learned, prepared on the link, bound
TEXT = "SELECT n FROM notes WHERE k = $1"
ALL = "SELECT * FROM notes WHERE k = $1"


@pytest.fixture(scope="module")
def _several(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Town]:
    yield from made_town(3, make_module_databases, start_module_proxy, console=WHO, limits=LIMITS)


@pytest.fixture(scope="module")
def _one(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Town]:
    yield from made_town(1, make_module_databases, start_module_proxy, console=WHO, limits=LIMITS)


@pytest.fixture(params=["_several", "_one"], ids=["3 shards", "1 shard"])
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    found: Town = request.getfixturevalue(request.param)
    found.empty()
    yield found
    eventually(lambda: not found.busy(), "something was left behind on the shards")


#: For what is refused over several shards, or changed around the proxy, which plans by what it has read there.
over_one_shard = pytest.mark.parametrize("town", ["_one"], indirect=True)


@pytest.fixture
def clients(town: Town) -> Iterator[Callable[[], Twins]]:
    """Make pairs of clients."""
    with ExitStack() as stack:
        yield lambda: Twins(*(stack.enter_context(closing(WireClient(dsn))) for dsn in (town.one, town.dsn)))


@pytest.fixture
def twins(clients: Callable[[], Twins]) -> Twins:
    """A client of the single Postgres and one of the proxy, with a row 7 to look for."""
    pair = clients()
    pair.query("INSERT INTO notes VALUES (7, 'some', 7)")
    return pair


#: The databases of a town may be one server's.
MADE = "DO $$ BEGIN CREATE ROLE {}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"


def parses(town: Town) -> tuple[int, int]:
    """Return how many Parse messages clients have sent, and shards have got."""
    where = town.dsn.rpartition("/")[0] + "/pgchorus"
    with psycopg.connect(where, autocommit=True) as console, psycopg.ClientCursor(console) as cursor:
        cursor.execute(b"SHOW STATS_TOTALS")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    (found,) = [row for row in rows if row["database"] != "pgchorus"]
    return int(found["client_parse_count"]), int(found["server_parse_count"])


def point(twins: Twins, text: str = TEXT, key: int = 7, **more: Any) -> None:
    twins.same(parse(text), bind(b"%d" % key, **more), describe("P"), execute(), SYNC)


def is_shared(town: Town, twins: Twins, text: str = TEXT) -> bool:
    """Run a statement until it may be shared; whether it is."""
    for _ in range(3):  # another catalog may come in between
        for _ in range(TIMES):
            point(twins, text)
        client, server = parses(town)
        for _ in range(TIMES):
            point(twins, text)
        after_client, after_server = parses(town)
        assert after_client - client == TIMES
        if after_server == server:
            return True
    assert after_server - server == TIMES
    return False


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        ALL,
        "SELECT v AS x, a.n, a.* FROM public.notes a WHERE $1 = a.k",
        "SELECT v FROM notes WHERE k = $1 AND n = 7",
        "SELECT v FROM notes WHERE k = $1;",
    ],
)
def test_point_statements_are_parsed_once_for_each_link(town: Town, twins: Twins, text: str) -> None:
    eventually(partial(is_shared, town, twins, text), "it is parsed each time")
    point(twins, text, 8)  # nobody
    point(twins, text, results=(1,))
    point(twins, text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT n + 1 FROM notes WHERE k = $1",
        "SELECT upper(v) FROM notes WHERE k = $1",
        "SELECT n FROM notes WHERE k = $1 LIMIT 1",
        "SELECT n FROM notes WHERE k = $1 AND v = 'some'",
        "SELECT n FROM notes WHERE k = $1 AND n > 1",
        "SELECT n FROM notes WHERE k = $1 OR n = 7 AND k = $1",
        "SELECT n FROM notes WHERE k = $1 FOR UPDATE",
        "SELECT id FROM children WHERE parent = $1",
        "SELECT count(*) FROM notes WHERE k = $1",
        "SELECT a.n FROM notes a, notes b WHERE a.k = $1 AND b.k = $1",
        "SELECT v FROM notes WHERE k = $1::int4",
        "UPDATE notes SET n = 7 WHERE k = $1",
    ],
)
def test_what_could_show_it_is_parsed_each_time(town: Town, twins: Twins, text: str) -> None:
    assert not is_shared(town, twins, text)


@pytest.mark.parametrize(
    ("made", "undone"),
    [
        (
            "CREATE VIEW seen AS SELECT id, v FROM plain",
            "DROP VIEW seen",
        ),
        (
            "CREATE TABLE seen (id int4 PRIMARY KEY, v text); CREATE TABLE grown () INHERITS (seen)",
            "DROP TABLE seen CASCADE",
        ),
        (
            "CREATE TABLE seen (id int4 PRIMARY KEY, v text); ALTER TABLE seen ENABLE ROW LEVEL SECURITY",
            "DROP TABLE seen",
        ),
        ("CREATE TABLE seen (id int4, v text, UNIQUE (id) DEFERRABLE)", "DROP TABLE seen"),
        (
            "CREATE TABLE seen (id int4 UNIQUE) PARTITION BY LIST (id);CREATE TABLE part PARTITION OF seen DEFAULT",
            "DROP TABLE seen",
        ),
        ("CREATE TABLE seen (id numeric PRIMARY KEY, v text)", "DROP TABLE seen"),
        ("CREATE TABLE seen (id int4, v text); CREATE UNIQUE INDEX ON seen (id) WHERE v = 'x'", "DROP TABLE seen"),
    ],
)
def test_tables_with_more_to_them_are_parsed_each_time(town: Town, twins: Twins, made: str, undone: str) -> None:
    for one in made.split(";"):
        twins.query(one)
    try:
        assert not is_shared(town, twins, "SELECT id FROM seen WHERE id = $1")
    finally:
        twins.query(undone)


CHANGES = [
    ("ALTER TABLE notes ADD COLUMN extra int DEFAULT 5", "ALTER TABLE notes DROP COLUMN extra"),
    ("ALTER TABLE notes RENAME COLUMN n TO m", "ALTER TABLE notes RENAME COLUMN m TO n"),
    ("ALTER TABLE notes ALTER COLUMN n TYPE int8", "ALTER TABLE notes ALTER COLUMN n TYPE int4"),
    ("ALTER TABLE notes DROP CONSTRAINT notes_pkey", "ALTER TABLE notes ADD PRIMARY KEY (k)"),
]


def changed(town: Town, twins: Twins, make: Callable[[str], object], change: str, undo: str) -> None:
    for text in (TEXT, ALL):
        eventually(partial(is_shared, town, twins, text), "it is parsed each time")
    make(change)
    try:
        for _ in range(TIMES):
            point(twins, TEXT)
            point(twins, ALL)
    finally:
        make(undo)
    for _ in range(TIMES):
        point(twins, TEXT)
        point(twins, ALL)


@pytest.mark.parametrize(("change", "undo"), CHANGES)
def test_a_changed_table_is_seen_at_once(town: Town, twins: Twins, change: str, undo: str) -> None:
    changed(town, twins, twins.query, change, undo)


@over_one_shard
@pytest.mark.parametrize(
    ("change", "undo"),
    [
        *CHANGES,
        ("ALTER TABLE notes RENAME TO others", "ALTER TABLE others RENAME TO notes"),
        ("ALTER TABLE notes ALTER COLUMN k TYPE text", "ALTER TABLE notes ALTER COLUMN k TYPE int8 USING k::int8"),
    ],
)
def test_one_that_is_changed_around_the_proxy_as_well(town: Town, twins: Twins, change: str, undo: str) -> None:
    changed(town, twins, town.direct, change, undo)


def test_a_table_that_is_made_anew_is_the_one_that_is_read(twins: Twins) -> None:
    text = "SELECT * FROM passing WHERE id = $1"
    for columns in (
        "id int4 PRIMARY KEY, v text",
        "id int4 PRIMARY KEY, v int4",
        "id int8 PRIMARY KEY, v text",
        "id text",
    ):
        twins.query(f"CREATE TABLE passing ({columns})")
        twins.query("INSERT INTO passing VALUES ('7')")
        for _ in range(TIMES):
            point(twins, text)
        twins.query("DROP TABLE passing")
        point(twins, text)  # it is gone


def test_other_paths_lead_to_other_tables(twins: Twins) -> None:
    text = "SELECT v FROM plain WHERE id = $1"
    twins.query("INSERT INTO plain VALUES (7, 'public')")
    twins.query("CREATE SCHEMA nearer")
    try:
        twins.query("SET search_path = nearer, public")
        for _ in range(TIMES):
            point(twins, text)
        twins.query("CREATE TABLE nearer.plain (id int4 PRIMARY KEY, v text)")
        for _ in range(TIMES):
            point(twins, text)
        twins.query("SET search_path = public")
        for _ in range(TIMES):
            point(twins, text)
    finally:
        twins.query("DROP SCHEMA nearer CASCADE")


def test_rights_are_those_of_the_moment(town: Town, twins: Twins) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    town.direct(MADE.format("nobody_yet"))
    try:
        for change in (
            "SET ROLE nobody_yet",
            "RESET ROLE",
            "GRANT SELECT ON notes TO nobody_yet",
            "SET ROLE nobody_yet",
            "RESET ROLE",
            "REVOKE SELECT ON notes FROM nobody_yet",
        ):
            twins.query(change)
            for _ in range(TIMES):
                point(twins)
    finally:
        town.direct("DROP ROLE IF EXISTS nobody_yet")


def test_row_security_that_comes_later_holds(town: Town, twins: Twins) -> None:
    town.direct(MADE.format("seldom"))
    twins.query("GRANT SELECT ON notes TO seldom")
    try:
        twins.query("SET ROLE seldom")
        eventually(partial(is_shared, town, twins), "it is parsed each time")
        town.direct("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        for _ in range(TIMES):
            point(twins)
    finally:
        twins.query("RESET ROLE")
        town.direct("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
        twins.query("REVOKE ALL ON notes FROM seldom")
        town.direct("DROP ROLE IF EXISTS seldom")


def test_the_unnamed_statement_is_there_afterwards(town: Town, twins: Twins) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    twins.same(bind(b"7"), describe("P"), execute(), SYNC)
    twins.same(bind(b"x"), describe("P"), execute(), SYNC)
    twins.same(bind(b"8"), execute(), SYNC)
    twins.same(describe("S"), SYNC)
    point(twins)
    twins.query("BEGIN")
    twins.same(bind(b"7"), describe("P"), execute(), SYNC)
    point(twins)
    twins.same(bind(b"7"), describe("P"), execute(), SYNC)
    twins.query("COMMIT")
    point(twins)
    twins.same(parse("SELECT nonsense"), SYNC)
    twins.same(bind(b"7"), describe("P"), execute(), SYNC)
    point(twins)
    twins.query("SELECT 1")
    twins.same(bind(b"7"), describe("P"), execute(), SYNC)


def test_values_that_cannot_be_read_are_told_as_ever(town: Town, twins: Twins) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    for value in (b"x", b"99999999999999999999", b"-1", b" 7", b"", None, b"999999999", b"0007"):
        twins.same(parse(TEXT), bind(value), describe("P"), execute(), SYNC)
    twins.same(parse(TEXT), bind(b"7", b"8"), describe("P"), execute(), SYNC)
    twins.same(parse(TEXT), bind(), describe("P"), execute(), SYNC)
    eventually(partial(is_shared, town, twins), "it is parsed each time")


def test_a_link_keeps_no_more_than_it_may(clients: Callable[[], Twins], twins: Twins) -> None:
    texts = [f"SELECT n, {'v, ' * number}k FROM notes WHERE k = $1" for number in range(7)]
    other = clients()
    for _ in range(TIMES):
        for text in texts:
            for one in (twins, other):
                point(one, text)
                point(one, text)
                point(one, text)
    other.same(parse(texts[0], "named"), SYNC)
    for text in (*texts, *texts):
        other.same(bind(b"7", statement="named"), describe("P"), execute(), SYNC)
        point(twins, text)


def test_named_ones_of_the_same_text_share_it(town: Town, clients: Callable[[], Twins], twins: Twins) -> None:
    other = clients()
    other.same(parse(TEXT, "named"), SYNC)
    for _ in range(TIMES):
        point(twins)
        other.same(bind(b"7", statement="named"), describe("P"), execute(), SYNC)
        point(other)
    _, before = parses(town)
    point(twins)
    other.same(bind(b"7", statement="named"), describe("P"), execute(), SYNC)
    assert parses(town)[1] == before
    other.query("DEALLOCATE ALL")
    point(twins)
    other.query("DISCARD ALL")
    for _ in range(TIMES):
        point(twins)
        point(other)


@over_one_shard
def test_a_link_that_has_lost_its_statements_shows_nothing(
    town: Town, clients: Callable[[], Twins], twins: Twins
) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    for _ in range(2):
        clients().query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        for _ in range(TIMES):
            point(twins)


def test_a_link_that_is_new_is_taught_again(town: Town, twins: Twins) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    others = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND query LIKE 'SELECT n FROM notes%'"
    )
    shard = town.shard_of(7) if len(town.shards) > 1 else 0
    assert town.on_shard(shard, others) == [(1,)]
    alive = others.replace("count(pg_terminate_backend(pid))", "1")
    eventually(lambda: not town.on_shard(shard, alive), "the link is still there")
    for _ in range(TIMES):
        point(twins)
    eventually(partial(is_shared, town, twins), "it is parsed each time")


def test_a_server_that_goes_away_is_told(town: Town, twins: Twins) -> None:
    """What it may have run is not run again."""
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    shard = town.shard_of(7) if len(town.shards) > 1 else 0
    with psycopg.connect(town.shards[shard]) as holder:
        holder.execute(b"LOCK TABLE notes")
        twins.proxy.send(parse(TEXT), bind(b"7"), describe("P"), execute(), SYNC)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        eventually(lambda: town.on_shard(shard, kill), "the statement did not reach the shard")
        *_, error, ready = twins.proxy.read()
        assert (error[1]["C"], ready) == ("57P01", ("ready", "I"))
    for _ in range(TIMES):
        point(twins)


@pytest.mark.parametrize("how", ["cancel", "statement_timeout", "lock_timeout", "nothing"])
def test_a_statement_that_waits_can_be_ended(town: Town, twins: Twins, how: str) -> None:
    """A table that somebody has locked: Postgres waits for it in Parse, and a link in Bind."""
    if how.endswith("timeout"):
        twins.query(f"SET {how} = '200ms'")
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    shard = town.shard_of(7) if len(town.shards) > 1 else 0
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    answers = []
    for dsn, client in ((town.one, twins.one), (town.shards[shard], twins.proxy)):
        with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
            holder.execute(b"LOCK TABLE notes")
            client.send(parse(TEXT), bind(b"7"), describe("P"), execute(), SYNC)
            if not how.endswith("timeout"):
                eventually(
                    lambda watcher=watcher: watcher.execute(waiting.encode()).fetchall(),
                    "the statement did not reach the shard",
                )
            if how == "cancel":
                client.cancel()
            if how == "nothing":
                holder.rollback()
            answers.append(client.read())
    assert answers[0] == answers[1]
    for _ in range(TIMES):
        point(twins)


def test_what_is_sent_behind_it_waits_its_turn(town: Town, twins: Twins) -> None:
    eventually(partial(is_shared, town, twins), "it is parsed each time")
    one = (parse(TEXT), bind(b"7"), describe("P"), execute(), SYNC)
    for _ in range(TIMES):
        for client in (twins.one, twins.proxy):
            client.send(*one)
            client.send(*one, Query(b"SELECT 1"), *one)
        assert [twins.one.read() for _ in range(4)] == [twins.proxy.read() for _ in range(4)]


def test_those_who_wait_for_a_link_share_it_too(town: Town, clients: Callable[[], Twins], twins: Twins) -> None:
    pairs = [twins, *(clients() for _ in range(4))]
    for pair in pairs:
        for _ in range(TIMES):
            point(pair)
    _, before = parses(town)
    for _ in range(5):
        for pair in pairs:
            for client in (pair.one, pair.proxy):
                client.send(parse(TEXT), bind(b"7"), describe("P"), execute(), SYNC)
        for pair in pairs:
            assert pair.one.read() == pair.proxy.read()
    assert parses(town)[1] == before


def test_who_debugs_the_server_is_told_of_no_names(twins: Twins) -> None:
    twins.proxy.query("SET client_min_messages = debug2")
    for _ in range(TIMES):
        told = twins.proxy.ask(parse(TEXT), bind(b"7"), describe("P"), execute(), SYNC)
        assert not [entry for entry in told if entry[0] == "notice" and "pgchorus_" in entry[1]["M"]]


def test_it_can_be_turned_off(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    limits = {"pool": {"size": 1}, "statements": {"unnamed": 0}}
    for town in made_town(1, make_databases, start_proxy, console=WHO, limits=limits):
        with closing(WireClient(town.one)) as one, closing(WireClient(town.dsn)) as proxy:
            assert not is_shared(town, Twins(one, proxy))
