"""Queries whose integers are bound: over several shards a simple point query runs as a prepared statement of its link.

Beside one Postgres, message by message. All clients share one link to each shard, which keeps few statements. Whether
a Query was bound is told by the shard itself: pg_stat_activity has the text that it was given.
"""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from tests.integration.conftest import made_town
from tests.integration.test_shared_unnamed import CHANGES, LIMITS, MADE, WHO, parses
from waiting import eventually
from wire_client import SYNC, Twins, WireClient, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeDatabases, StartProxy
    from tests.integration.conftest import Town
    from wire_client import Trace

TIMES = 4  # planned, its template learned, prepared on the link, bound
KEY = 7
TEXT = "SELECT n FROM notes WHERE k = {}"
ALL = "SELECT * FROM notes WHERE k = {}"
RUN = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def _several(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Town]:
    yield from made_town(2, make_module_databases, start_module_proxy, console=WHO, limits=LIMITS)


@pytest.fixture
def town(_several: Town) -> Iterator[Town]:
    _several.empty()
    yield _several
    eventually(lambda: not _several.busy(), "something was left behind on the shards")


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


def is_bound(town: Town, twins: Twins, text: str = TEXT, key: int = KEY) -> bool:
    """Run a Query until it may be bound; whether it is. Its integers may not be written otherwise than as ``{}``."""
    for _ in range(3):  # another catalog may come in between
        for at in range(TIMES):
            twins.query(text.format(key + at))
        twins.query(text.format(key))
        meant = text.replace("{}", "$1") if text.count("{}") == 1 else text.format("$1", "$2")
        if any(query == meant for (query,) in town.on_shard(town.shard_of(key), RUN)):
            return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        ALL,
        "SELECT v AS x, a.n, a.* FROM public.notes a WHERE {} = a.k",
        "SELECT v FROM notes WHERE k = {};",
        "SELECT FROM notes WHERE k={}",
        "  select\tv\nfrom notes where (k = {})",
        "SELECT v FROM ONLY notes WHERE k = ({})",
    ],
)
def test_point_queries_are_parsed_once_for_each_link(town: Town, twins: Twins, text: str) -> None:
    eventually(partial(is_bound, town, twins, text), "it is never bound")
    _, before = parses(town)
    for key in (7, 8, 0, 999_999_999, "007", "000000007"):  # of two shards, most of them nobody's
        twins.query(text.format(key))
    client, after = parses(town)
    assert after - before <= len(town.shards)
    twins.query(text.format(7))
    twins.query(text.format(8))
    assert parses(town) == (client, after)


def test_several_integers(town: Town, twins: Twins) -> None:
    text = "SELECT v FROM notes WHERE n = {} AND k = {}"
    for _ in range(TIMES):
        for values in ((7, 7), (8, 7), (7, 8), (7000, 7)):
            twins.query(text.format(*values))
    twins.query(text.format(7, 7))
    assert (text.format("$1", "$2"),) in town.on_shard(town.shard_of(7), RUN)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT n, {} FROM notes WHERE k = {}",
        "SELECT n + 1 FROM notes WHERE k = {}",
        "SELECT upper(v) FROM notes WHERE k = {}",
        "SELECT n FROM notes WHERE k = {} LIMIT 1",
        "SELECT n FROM notes WHERE k = {} ORDER BY 1",
        "SELECT n FROM notes WHERE k = {} AND v = 'some'",
        "SELECT n FROM notes WHERE k = {} AND n > 1",
        "SELECT n FROM notes WHERE k = {} FOR UPDATE",
        "SELECT n FROM notes WHERE k = {} FOR SHARE",
        "SELECT id FROM children WHERE parent = {}",
        "SELECT count(*) FROM notes WHERE k = {}",
        "SELECT n FROM notes WHERE k = {}::int4",
        "SELECT n FROM notes WHERE k = '{}'",
        "SELECT n FROM notes WHERE k = +{}",
        "SELECT n FROM notes WHERE k = -{}",
        "SELECT n FROM notes WHERE k = - {}",
        "SELECT n FROM notes WHERE k = {}.0",
        "SELECT n FROM notes WHERE k = {}e0",
        "SELECT n FROM notes WHERE k = 0x{}",
        "SELECT n FROM notes WHERE k = 1_00{}",
        "SELECT n FROM notes WHERE k = {} /* a hint */",
        "/*+ IndexScan(notes) */ SELECT n FROM notes WHERE k = {}",
        "SELECT n FROM notes WHERE k = {} -- a comment",
        "SELECT n FROM notes WHERE k = {}; SELECT 1",
        'SELECT "n" FROM notes WHERE k = {}',
        "SELECT n FROM notes WHERE k IN ({})",
        "SELECT n FROM notes WHERE k = {} AND k = $1",
        "SELECT word FROM words WHERE word = {}",
        "SELECT n FROM notes WHERE k = 1{}0000000007",
        "SELECT n FROM nothing WHERE k = {}",
        "SELECT none FROM notes WHERE k = {}",
        "UPDATE notes SET n = 7 WHERE k = {}",
        "DELETE FROM notes WHERE k = {}",
    ],
)
def test_what_could_show_it_goes_as_it_came(town: Town, twins: Twins, text: str) -> None:
    """It is answered as one Postgres does, and no shard has seen a parameter."""
    for at in range(TIMES):
        twins.query(text.replace("{}", str(KEY + at)))
        twins.query(text.replace("{}", str(KEY)))
    ran = {query for shard in range(2) for (query,) in town.on_shard(shard, RUN)}
    assert not [query for query in ran if text.partition("{}")[0] + "$" in query]


@pytest.mark.parametrize(
    ("made", "undone"),
    [
        ("CREATE VIEW seen AS SELECT id, v FROM plain", "DROP VIEW seen"),
        (
            "CREATE TABLE seen (id int4 PRIMARY KEY, v text); ALTER TABLE seen ENABLE ROW LEVEL SECURITY",
            "DROP TABLE seen",
        ),
        ("CREATE TABLE seen (id int4, v text, UNIQUE (id) DEFERRABLE)", "DROP TABLE seen"),
        ("CREATE TABLE seen (id numeric PRIMARY KEY, v text)", "DROP TABLE seen"),
        ("CREATE TABLE seen (id oid PRIMARY KEY, v text)", "DROP TABLE seen"),
        ("CREATE TABLE seen (id text PRIMARY KEY, v text)", "DROP TABLE seen"),
        ("CREATE TABLE seen (id int4, v text); CREATE UNIQUE INDEX ON seen (id) WHERE v = 'x'", "DROP TABLE seen"),
    ],
)
def test_tables_with_more_to_them_are_asked_as_it_came(town: Town, twins: Twins, made: str, undone: str) -> None:
    for one in made.split(";"):
        twins.query(one)
    try:
        assert not is_bound(town, twins, "SELECT id FROM seen WHERE id = {}")
    finally:
        twins.query(undone)


@pytest.mark.parametrize("kind", ["int2", "int4", "int8"])
def test_the_types_of_keys(town: Town, twins: Twins, kind: str) -> None:
    """An int4 in the text is one beside any of them; what does not fit the column is nobody's, or as Postgres says."""
    twins.query(f"CREATE TABLE made (k {kind} PRIMARY KEY, v varchar(7), n numeric(9, 2), d date, f float8, b bytea)")
    try:
        text = "SELECT * FROM made WHERE k = {}"
        for key in (7, -7, 32767, *([2_147_483_647] if kind != "int2" else [])):
            twins.query(f"INSERT INTO made VALUES ({key}, 'some', 1.5, '2024-02-03', 0.1, 'x')")
        eventually(partial(is_bound, town, twins, text), "it is never bound")
        for key in (7, -7, 32767, 32768, 70_000, 2_147_483_647, 2_147_483_648, -2_147_483_648, 10**10, 10**20):
            for _ in range(TIMES):
                twins.query(text.format(key))
        for setting in (
            "DateStyle = 'German, DMY'",
            "extra_float_digits = -5",
            "bytea_output = escape",
            "enable_indexscan = off",
            "plan_cache_mode = force_custom_plan",
            "plan_cache_mode = force_generic_plan",
            "transform_null_equals = off",
        ):
            twins.query(f"SET {setting}")
            for key in (7, 8, 32767, 32768):
                twins.query(text.format(key))
                twins.query(text.format(key))
    finally:
        twins.query("DROP TABLE made")


def changed(town: Town, twins: Twins, make: Callable[[str], object], change: str, undo: str) -> None:
    for text in (TEXT, ALL):
        eventually(partial(is_bound, town, twins, text), "it is never bound")
    make(change)
    try:
        for _ in range(TIMES):
            twins.query(TEXT.format(KEY))
            twins.query(ALL.format(KEY))
    finally:
        make(undo)
    for _ in range(TIMES):
        twins.query(TEXT.format(KEY))
        twins.query(ALL.format(KEY))


@pytest.mark.parametrize(("change", "undo"), CHANGES)
def test_a_changed_table_is_seen_at_once(town: Town, twins: Twins, change: str, undo: str) -> None:
    if "CONSTRAINT" in change:  # the key's index goes, and the plan that finds rows by it
        twins.query("SELECT 1")
    changed(town, twins, twins.query, change, undo)


def test_a_table_that_is_made_anew_is_the_one_that_is_read(twins: Twins) -> None:
    text = "SELECT * FROM passing WHERE id = {}"
    for columns in (
        "id int4 PRIMARY KEY, v text",
        "id int4 PRIMARY KEY, v int4",
        "id int8 PRIMARY KEY, v text",
        "id text",
    ):
        twins.query(f"CREATE TABLE passing ({columns})")
        twins.query("INSERT INTO passing VALUES ('7')")
        for at in range(TIMES):
            twins.query(text.format(KEY + at))
            twins.query(text.format(KEY))
        twins.query("DROP TABLE passing")
        twins.query(text.format(KEY))  # it is gone


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        ("ALTER TABLE notes ADD COLUMN extra int", "ALTER TABLE notes DROP COLUMN extra"),
        ("ALTER TABLE notes ALTER COLUMN n TYPE int8", "ALTER TABLE notes ALTER COLUMN n TYPE int4"),
        ("ALTER TABLE notes RENAME COLUMN n TO m", "ALTER TABLE notes RENAME COLUMN m TO n"),
        ("ALTER TABLE notes RENAME TO others", "ALTER TABLE others RENAME TO notes"),
    ],
)
def test_one_that_is_changed_on_the_servers_as_well(town: Town, twins: Twins, change: str, undo: str) -> None:
    """Nothing was bound of what a link cannot run any more: it is asked as it came, in the same turn."""
    changed(town, twins, town.direct, change, undo)


def test_other_paths_lead_to_other_tables(twins: Twins) -> None:
    text = "SELECT v FROM plain WHERE id = {}"
    twins.query("INSERT INTO plain VALUES (7, 'public')")
    twins.query("CREATE SCHEMA nearer")
    try:
        for change in (
            "SET search_path = nearer, public",
            "CREATE TABLE nearer.plain (id int4 PRIMARY KEY, v text)",
            "SET search_path = public",
            "SET search_path = nearer",
            "SET search_path = nowhere",
        ):
            twins.query(change)
            for at in range(TIMES):
                twins.query(text.format(KEY + at))
                twins.query(text.format(KEY))
    finally:
        twins.query("DROP SCHEMA nearer CASCADE")


def test_rights_are_those_of_the_moment(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
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
                twins.query(TEXT.format(KEY))
    finally:
        town.direct("DROP ROLE IF EXISTS nobody_yet")


def test_row_security_that_comes_later_holds(town: Town, twins: Twins) -> None:
    town.direct(MADE.format("seldom"))
    twins.query("GRANT SELECT ON notes TO seldom")
    try:
        twins.query("SET ROLE seldom")
        eventually(partial(is_bound, town, twins), "it is never bound")
        town.direct("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        for _ in range(TIMES):
            twins.query(TEXT.format(KEY))
    finally:
        twins.query("RESET ROLE")
        town.direct("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
        twins.query("REVOKE ALL ON notes FROM seldom")
        town.direct("DROP ROLE IF EXISTS seldom")


def test_the_unnamed_statement_and_portal_are_gone_afterwards(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    for name in ("", "kept"):
        for _ in range(TIMES):
            twins.same(parse("SELECT v FROM notes WHERE k = $1", name), bind(b"7", statement=name), execute(), SYNC)
            twins.query(TEXT.format(KEY))
            twins.same(execute(), SYNC)
            twins.same(bind(b"7", statement=name), describe("P"), execute(), SYNC)
            twins.query("DEALLOCATE ALL")
            twins.query(TEXT.format(KEY))
    twins.query("DISCARD ALL")
    for _ in range(TIMES):
        twins.query(TEXT.format(KEY))


def test_the_same_text_with_a_parameter_is_another_statement(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    for _ in range(TIMES):
        twins.query(TEXT.format("$1"))
        twins.same(parse(TEXT.format("$1")), bind(b"7"), describe("P"), execute(), SYNC)
        twins.same(parse(TEXT.format("$1"), oids=(20,)), bind(b"7"), describe("P"), execute(), SYNC)
        twins.query(TEXT.format(KEY))


def test_in_blocks_and_beside_cursors(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    for text in (
        "BEGIN",
        TEXT.format(KEY),
        f"DECLARE c CURSOR FOR {TEXT.format(KEY)}",
        TEXT.format(KEY),
        "FETCH c",
        "SAVEPOINT s",
        TEXT.format("x"),
        TEXT.format(KEY),
        "ROLLBACK TO s",
        TEXT.format(KEY),
        "COMMIT",
        TEXT.format(KEY),
        f"PREPARE p AS {TEXT.format(KEY)}",
        "EXECUTE p",
        TEXT.format(KEY),
        "EXECUTE p",
        "DEALLOCATE p",
        TEXT.format(KEY),
        "SELECT name, statement FROM pg_prepared_statements",
    ):
        twins.query(text)


def test_a_link_keeps_no_more_than_it_may(clients: Callable[[], Twins], twins: Twins) -> None:
    texts = [f"SELECT n, {'v, ' * number}k FROM notes WHERE k = {{}}" for number in range(7)]
    other = clients()
    other.same(parse("SELECT n FROM notes WHERE k = $1", "named"), SYNC)
    for _ in range(TIMES):
        for text in (*texts, *texts):
            for one in (twins, other):
                for key in (7, 7, 8, 7):
                    one.query(text.format(key))
            other.same(bind(b"7", statement="named"), describe("P"), execute(), SYNC)


def test_others_share_what_a_link_has(town: Town, clients: Callable[[], Twins], twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    other = clients()
    other.query("SET DateStyle = 'German'")  # says nothing of how it is read
    before = parses(town)
    for _ in range(TIMES):
        other.query(TEXT.format(KEY))
        twins.query(TEXT.format(KEY))
    assert parses(town) == before


def test_a_link_that_has_lost_its_statements_shows_nothing(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    others = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND query LIKE 'SELECT n FROM notes%'"
    )
    shard = town.shard_of(KEY)
    assert town.on_shard(shard, others) == [(1,)]
    alive = others.replace("count(pg_terminate_backend(pid))", "1")
    eventually(lambda: not town.on_shard(shard, alive), "the link is still there")
    for _ in range(TIMES):
        twins.query(TEXT.format(KEY))
    assert is_bound(town, twins)


def test_a_server_that_goes_away_is_told(town: Town, twins: Twins) -> None:
    """What it may have run is not run again."""
    eventually(partial(is_bound, town, twins), "it is never bound")
    shard = town.shard_of(KEY)
    with psycopg.connect(town.shards[shard]) as holder:
        holder.execute(b"LOCK TABLE notes")
        twins.proxy.send(Query(TEXT.format(KEY).encode()))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        eventually(lambda: town.on_shard(shard, kill), "the statement did not reach the shard")
        *_, error, ready = twins.proxy.read()
        assert (error[1]["C"], ready) == ("57P01", ("ready", "I"))
    for _ in range(TIMES):
        twins.query(TEXT.format(KEY))


@pytest.mark.parametrize("how", ["cancel", "statement_timeout", "lock_timeout", "nothing"])
def test_a_query_that_waits_can_be_ended(town: Town, twins: Twins, how: str) -> None:
    """A table that somebody has locked: Postgres waits for it when it reads the text, and a link in Bind."""
    if how.endswith("timeout"):
        twins.query(f"SET {how} = '200ms'")
    eventually(partial(is_bound, town, twins), "it is never bound")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    answers = []
    for dsn, client in ((town.one, twins.one), (town.shards[town.shard_of(KEY)], twins.proxy)):
        with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
            holder.execute(b"LOCK TABLE notes")
            client.send(Query(TEXT.format(KEY).encode()))
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
        twins.query(TEXT.format(KEY))


def test_no_error_tells_of_parameters(town: Town, twins: Twins) -> None:
    """With this setting Postgres says of an error what was bound: nothing was, as far as the client knows."""
    eventually(partial(is_bound, town, twins), "it is never bound")
    twins.query("SET log_parameter_max_length_on_error = -1")
    twins.query("SET statement_timeout = '200ms'")
    for _ in range(TIMES):
        twins.query(TEXT.format(KEY))
    answers = []
    for dsn, client in ((town.one, twins.one), (town.shards[town.shard_of(KEY)], twins.proxy)):
        with psycopg.connect(dsn) as holder:
            holder.execute(b"LOCK TABLE notes")
            answers.append(client.query(TEXT.format(KEY)))
    assert answers[0] == answers[1]


def test_what_is_sent_behind_it_waits_its_turn(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    one = Query(TEXT.format(KEY).encode())
    for _ in range(TIMES):
        for client in (twins.one, twins.proxy):
            client.send(one)
            client.send(one, parse("SELECT 1"), SYNC, one)
        assert [twins.one.read() for _ in range(4)] == [twins.proxy.read() for _ in range(4)]


def test_those_who_wait_for_a_link_share_it_too(town: Town, clients: Callable[[], Twins], twins: Twins) -> None:
    pairs = [twins, *(clients() for _ in range(4))]
    for pair in pairs:
        for _ in range(TIMES):
            pair.query(TEXT.format(KEY))
    before = parses(town)
    for _ in range(5):
        for pair in pairs:
            for client in (pair.one, pair.proxy):
                client.send(Query(TEXT.format(KEY).encode()))
        for pair in pairs:
            assert pair.one.read() == pair.proxy.read()
    assert parses(town) == before


def test_answers_in_pieces(town: Town, twins: Twins) -> None:
    """Longer than what a socket gives at once."""
    twins.query(f"INSERT INTO notes VALUES (9, '{'x' * 3_000_000}', 7)")
    eventually(partial(is_bound, town, twins, ALL), "it is never bound")
    for _ in range(TIMES):
        twins.query(ALL.format(9))
        twins.query(ALL.format(KEY))


def test_who_debugs_the_server_is_told_of_no_names(town: Town, twins: Twins) -> None:
    eventually(partial(is_bound, town, twins), "it is never bound")
    twins.proxy.query("SET client_min_messages = debug2")
    for _ in range(TIMES):
        told = twins.proxy.query(TEXT.format(KEY))
        assert not [entry for entry in told if entry[0] == "notice" and "pgchorus_" in entry[1]["M"]]


@pytest.mark.parametrize(("shards", "limits"), [(1, LIMITS), (2, LIMITS | {"statements": {"unnamed": 0}})])
def test_where_it_is_not_done(
    make_databases: MakeDatabases, start_proxy: StartProxy, shards: int, limits: dict[str, dict[str, int]]
) -> None:
    """Before one shard alone, whose pg_stat_activity has the client's own text, and where it is turned off."""
    for town in made_town(shards, make_databases, start_proxy, console=WHO, limits=limits):
        with closing(WireClient(town.one)) as one, closing(WireClient(town.dsn)) as proxy:
            pair = Twins(one, proxy)
            for _ in range(TIMES):
                pair.query(TEXT.format(KEY))
            shard = town.shard_of(KEY) if shards > 1 else 0
            assert (TEXT.format(KEY),) in town.on_shard(shard, RUN)


#: What a session may do between two Queries, as pairs of which the second is not always done.
_BETWEEN = [
    ("BEGIN", "COMMIT"),
    ("BEGIN", "ROLLBACK"),
    ("SET search_path = nearer, public", "RESET search_path"),
    ("SET DateStyle = 'German'", "RESET ALL"),
    ("SET enable_indexscan = off", "RESET enable_indexscan"),
    ("CREATE TABLE nearer.notes (k int4 PRIMARY KEY, v text, n int4)", "DROP TABLE IF EXISTS nearer.notes"),
    ("ALTER TABLE notes ADD COLUMN w int DEFAULT 3", "ALTER TABLE notes DROP COLUMN w"),
    ("ALTER TABLE notes ALTER COLUMN n TYPE int8", "ALTER TABLE notes ALTER COLUMN n TYPE int4"),
    ("INSERT INTO notes VALUES (8, 'other', 1)", "DELETE FROM notes WHERE k = 8"),
    ("UPDATE notes SET v = 'changed' WHERE k = 7", "UPDATE notes SET v = 'back' WHERE k = 7"),
    ("PREPARE p AS SELECT n FROM notes WHERE k = 7", "DEALLOCATE ALL"),
    ("EXECUTE p", "DISCARD ALL"),
    ("SELECT 1; SELECT n FROM notes WHERE k = 7", "SELECT n FROM notes WHERE k = 7; SELECT nothing"),
    ("SELECT 1/0", "SELECT k FROM"),
]
_ASKED = [
    TEXT,
    ALL,
    "SELECT k, v FROM public.notes WHERE {} = k",
    "SELECT v FROM notes WHERE k = {} AND n = {}",
    "SELECT v AS x FROM notes a WHERE a.k = {};",
    "SELECT w FROM notes WHERE k = {}",
    "SELECT n FROM notes WHERE k = {} LIMIT 1",
    "SELECT {} FROM notes WHERE k = {}",
]
_WRITTEN = [
    "7",
    "8",
    "7",
    "7",
    "8",
    "1",
    "007",
    "-7",
    "+7",
    "7.0",
    "999999999",
    "2147483648",
    "0x7",
    "1e3",
    "70_0",
    "'7'",
]


def _step(draw: random.Random) -> list[Any]:
    """Return messages that are sent together."""
    kind = draw.randrange(10)
    text = draw.choice(_ASKED)
    if kind < 7:
        return [Query(text.replace("{}", draw.choice(_WRITTEN)).encode()) for _ in range(draw.choice((1, 1, 1, 2)))]
    if kind == 7:
        return [parse(TEXT.format("$1")), bind(draw.choice((b"7", b"8", b"x"))), describe("P"), execute(), SYNC]
    if kind == 8:
        return [bind(b"7"), execute(), SYNC]
    return [Query(draw.choice(draw.choice(_BETWEEN)).encode())]


def _without_order(trace: Trace) -> Trace:
    """Several settings that one statement changes are told in an order of the server's own."""
    told = [entry for entry in trace if entry[0] == "parameter"]
    return [*sorted(told), *(entry for entry in trace if entry[0] != "parameter")]


@pytest.mark.parametrize("seed", range(6))
def test_sequences_that_are_drawn(clients: Callable[[], Twins], twins: Twins, seed: int) -> None:
    """Two clients in turn, whose links are the same, and whose statements are no more than these can keep."""
    draw = random.Random(seed)
    twins.query("CREATE SCHEMA nearer")
    pairs = [twins, clients()]
    inside = None
    try:
        for _ in range(120):
            pair = draw.choice(pairs) if inside is None else inside
            for _ in range(draw.choice((1, 3, 5))):
                step = _step(draw)
                for client in (pair.one, pair.proxy):
                    client.send(*step)
                cycles = sum(message is SYNC or isinstance(message, Query) for message in step)
                for _ in range(cycles):
                    one, proxy = (_without_order(client.read()) for client in (pair.one, pair.proxy))
                    assert one == proxy, step
                    inside = pair if one[-1] != ("ready", "I") else None
    finally:
        for text in ("ROLLBACK", "RESET DateStyle", "DISCARD ALL"):
            for pair in pairs:  # who is in a block has a link that the other waits for
                pair.query(text)
        for text in (
            "DROP SCHEMA nearer CASCADE",
            "ALTER TABLE notes DROP COLUMN IF EXISTS w",
            "ALTER TABLE notes ALTER COLUMN n TYPE int4",
        ):
            twins.query(text)
