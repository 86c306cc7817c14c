"""The fast lane answers what the long road answers, byte for byte, and leaves the same behind.

A Flush before a message keeps it off the lane and is not answered: the same statement goes both ways. Each statement
comes several times first, because only what has been planned twice gets a shortcut; the metrics say that it was used.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, Twins, WireClient, bind, close, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lane


TIMES = 3  # the second text of a template teaches it


@pytest.fixture
def client(lane: Lane, connect: Callable[..., WireClient]) -> WireClient:
    return connect(lane.town.dsn)


def raw(client: WireClient, *messages: object) -> list[tuple[int, bytes]]:
    client.send(*messages)
    return client.frames(b"Z"[0].__eq__)


def both_ways(lane: Lane, client: WireClient, *texts: str, fast: int) -> None:
    """Run statements by the long road, then by the lane (at least ``fast`` of them); they change nothing for good."""
    for _ in range(TIMES):
        for text in texts:
            client.query(text)
    slow = [raw(client, FLUSH, Query(text.encode())) for text in texts]
    before = lane.count()
    assert [raw(client, Query(text.encode())) for text in texts] == slow
    assert lane.count() - before >= fast


READS = [
    "SELECT v, n FROM notes WHERE k = 7",
    "SELECT v, n FROM notes WHERE k = 8 -- nobody",
    "SELECT k FROM notes WHERE k = 7 AND n / 0 > 1",
    "SELECT count(*) FROM plain",
    "SELECT 1",
    "SELECT 'text'",
    "SELECT v FROM notes WHERE k = 7 ORDER BY 1 LIMIT 1",
    "UPDATE notes SET v = v WHERE k = 7",
    "UPDATE notes SET n = -1 WHERE k = 7",
    "INSERT INTO notes VALUES (7, NULL, 1)",
    "DELETE FROM notes WHERE k = 70000",
    "INSERT INTO plain VALUES (5) RETURNING id / 0",
    "SELECT repeat('x', 300000) FROM notes WHERE k = 7",
    "SELECT g, repeat('y', 2000) FROM generate_series(1, 1000) g",
    "SELECT g, repeat('y', g % 40) FROM generate_series(10000, 20000) g",
    "SELECT g, 1 / (19000 - g) FROM generate_series(10000, 20000) g",
]


@pytest.mark.parametrize("text", READS)
def test_the_answer_is_the_same_byte_for_byte(lane: Lane, client: WireClient, text: str) -> None:
    client.query("INSERT INTO notes VALUES (7, 'seven', 7)")
    both_ways(lane, client, text, fast=1)


@pytest.mark.parametrize("text", READS)
def test_in_a_block_as_well(lane: Lane, client: WireClient, text: str) -> None:
    client.query("INSERT INTO notes VALUES (7, 'seven', 7)")
    both_ways(lane, client, "BEGIN", text, "SELECT v FROM notes WHERE k = 7", "ROLLBACK", fast=2)


def test_point_statements_take_the_lane(lane: Lane, client: WireClient) -> None:
    for key in range(1, 4):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, {key})")
        client.query(f"SELECT n FROM notes WHERE k = {key}")
    for key in lane.town.spread:  # whoever was here before may have left no link at rest
        client.query(f"SELECT n FROM notes WHERE k = {key}")
    before = lane.count()
    for key in range(4, 24):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, {key})")
    for key in range(1, 24):
        assert client.rows(f"SELECT n FROM notes WHERE k = {key}") == [(str(key),)]
    assert lane.count() - before == 20 + 23


def test_statements_of_a_block_on_one_shard_take_the_lane(lane: Lane, client: WireClient) -> None:
    one, two = lane.town.keys(1, 2)

    def block() -> None:
        client.query("BEGIN")
        client.query(f"INSERT INTO notes VALUES ({one}, NULL, 1) ON CONFLICT DO NOTHING")
        client.query(f"UPDATE notes SET n = n + 1 WHERE k = {one}")
        client.query(f"SELECT n FROM notes WHERE k = {two}")
        client.query("COMMIT")

    for _ in range(TIMES):
        block()
    before = lane.count()
    block()
    assert lane.count() - before >= 4
    assert client.rows(f"SELECT n FROM notes WHERE k = {one}") == [(str(TIMES + 2),)]


def test_one_postgres_answers_the_same(lane: Lane, connect: Callable[..., WireClient]) -> None:
    twins = Twins(connect(lane.town.one), connect(lane.town.dsn))
    first, second, third = lane.town.spread
    for round_ in range(TIMES):
        for key in (first, second, third):
            twins.query(f"INSERT INTO notes VALUES ({key}, NULL, {round_})")  # a duplicate from the second round on
            twins.query("BEGIN;")
            twins.query(f"UPDATE notes SET n = n + 1 WHERE k = {key};")
            twins.query(f"SELECT n FROM notes WHERE k = {key};")
            twins.query(f"SELECT n FROM notes WHERE k = {first};")
            twins.query(f"INSERT INTO notes VALUES ({key}, NULL, 1);")
            twins.query(f"SELECT n FROM notes WHERE k = {key};")  # in a failed block
            twins.query("COMMIT;")


def test_a_read_only_block_stays_one(lane: Lane, connect: Callable[..., WireClient]) -> None:
    twins = Twins(connect(lane.town.one), connect(lane.town.dsn))
    for _ in range(TIMES):
        twins.query("UPDATE notes SET n = 1 WHERE k = 5")
    twins.query("BEGIN READ ONLY")
    twins.query("UPDATE notes SET n = 1 WHERE k = 5")
    twins.query("ROLLBACK")
    twins.query("BEGIN")
    twins.query("SET TRANSACTION READ ONLY")
    twins.query("UPDATE notes SET n = 1 WHERE k = 5")
    twins.query("ROLLBACK")
    twins.query("SET default_transaction_read_only = on")
    twins.query("BEGIN")
    twins.query("UPDATE notes SET n = 1 WHERE k = 5")
    twins.query("ROLLBACK")
    twins.query("UPDATE notes SET n = 1 WHERE k = 5")


def test_settings_follow_the_session(lane: Lane, connect: Callable[..., WireClient]) -> None:
    here, there = connect(lane.town.dsn), connect(lane.town.dsn)
    here.query("INSERT INTO plain VALUES (1, 'x')")
    text = "SELECT current_setting('statement_timeout'), id FROM plain WHERE id = 1"
    for client in (here, there) * TIMES:
        client.query(text)
    here.query("SET statement_timeout = '7s'")
    for _ in range(TIMES):
        assert here.rows(text) == [("7s", "1")]
        assert there.rows(text) == [("0", "1")]


def test_settings_made_in_a_block_reach_the_shard_that_joins_later(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(2)[0]
    text = f"SELECT current_setting('work_mem') FROM notes WHERE k = {key}"
    client.query(f"INSERT INTO notes VALUES ({key}, NULL, 1)")
    for _ in range(TIMES):
        client.query("BEGIN")
        client.query(text)
        client.query("COMMIT")
    client.query("BEGIN")
    client.query("SET LOCAL work_mem = '9MB'")
    assert client.rows(text) == [("9MB",)]
    client.query("COMMIT")
    assert client.rows(text) == [("4MB",)]


def test_a_changed_catalog_is_noticed(lane: Lane, client: WireClient, connect: Callable[..., WireClient]) -> None:
    other = connect(lane.town.dsn)
    client.query("INSERT INTO notes VALUES (7, 'seven', 7)")
    for _ in range(TIMES):
        client.query("SELECT * FROM notes WHERE k = 7")
    other.query("ALTER TABLE notes ADD COLUMN extra int DEFAULT 5")
    try:
        assert client.rows("SELECT * FROM notes WHERE k = 7") == [("7", "seven", "7", "5")]
    finally:
        other.query("ALTER TABLE notes DROP COLUMN extra")


def test_a_cancel_finds_the_statement(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(1)[0]
    client.query(f"INSERT INTO notes VALUES ({key}, NULL, 1)")
    for times in range(TIMES):
        client.query(f"SELECT pg_sleep({times} * 0) FROM notes WHERE k = {key}")
    before = lane.count()
    client.send(Query(f"SELECT pg_sleep(1 * 100) FROM notes WHERE k = {key}".encode()))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    eventually(lambda: lane.town.on_shard(1, sleeping), "the statement did not reach the shard")
    client.cancel()
    *_, error, ready = client.read()
    assert (error[1]["C"], ready) == ("57014", ("ready", "I"))
    assert lane.count() == before + 1
    assert client.rows(f"SELECT n FROM notes WHERE k = {key}") == [("1",)]


def test_a_client_that_vanishes_stops_its_statement(lane: Lane) -> None:
    key = lane.town.keys(1)[0]
    client = WireClient(lane.town.dsn)
    client.query(f"INSERT INTO notes VALUES ({key}, NULL, 1)")
    for times in range(TIMES):
        client.query(f"SELECT pg_sleep({times} * 0) FROM notes WHERE k = {key}")
    client.send(Query(f"SELECT pg_sleep(1 * 100) FROM notes WHERE k = {key}".encode()))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    eventually(lambda: lane.town.on_shard(1, sleeping), "the statement did not reach the shard")
    client.vanish()
    eventually(lambda: not lane.town.on_shard(1, sleeping), "the statement went on")


def test_what_arrives_meanwhile_is_handled_in_order(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(1)[0]
    client.query(f"INSERT INTO notes VALUES ({key}, NULL, 1)")
    for _ in range(TIMES):
        client.query(f"UPDATE notes SET n = n + 1 WHERE k = {key}")
    for _ in range(20):
        client.send(Query(f"UPDATE notes SET n = n + 1 WHERE k = {key}".encode()))
    client.send(Query(f"SELECT n FROM notes WHERE k = {key}".encode()))
    answers = [client.read() for _ in range(21)]
    assert answers[-1][1] == ("row", [str(1 + TIMES + 20).encode()])


def test_a_lost_link_is_an_error_of_the_statement(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(1)[0]
    client.query(f"INSERT INTO notes VALUES ({key}, NULL, 1)")
    for times in range(TIMES):
        client.query(f"SELECT pg_sleep({times} * 0) FROM notes WHERE k = {key}")
    client.send(Query(f"SELECT pg_sleep(1 * 100) FROM notes WHERE k = {key}".encode()))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    eventually(lambda: lane.town.on_shard(1, kill), "the statement did not reach the shard")
    *_, error, ready = client.read()
    assert (error[1]["C"], error[1]["S"], ready) == ("57P01", "ERROR", ("ready", "I"))
    assert client.rows(f"SELECT n FROM notes WHERE k = {key}") == [("1",)]


def test_a_slow_client_gets_a_large_answer_whole(lane: Lane) -> None:
    with closing(WireClient(lane.town.dsn)) as client, psycopg.connect(lane.town.dsn, autocommit=True) as writer:
        key = lane.town.keys(1)[0]
        writer.execute(b"INSERT INTO notes VALUES (%d, repeat('x', 1000000), 1)" % key)
        for count in range(1, 1 + TIMES):
            client.query(f"SELECT v FROM notes, generate_series(1, {count}) WHERE k = {key}")
        client.send(Query(f"SELECT v FROM notes, generate_series(1, 40) WHERE k = {key}".encode()))
        writer.execute(b"SELECT pg_sleep(0.2)")  # meanwhile everything between here and the shard fills
        answer = client.read()
        assert [len(entry[1][0]) for entry in answer if entry[0] == "row"] == [1_000_000] * 40


# --- the extended protocol ---------------------------------------------------------------------------------------

SEVEN = (7).to_bytes(8, "big")
PIPELINES = [
    ("SELECT v, n FROM notes WHERE k = $1", (b"7",), (), ()),
    ("SELECT v, n FROM notes WHERE k = $1", (SEVEN,), (1,), (1,)),
    ("SELECT v, n FROM notes WHERE n = $2 AND k = $1", (SEVEN, b"7"), (1, 0), (0, 1)),
    ("SELECT v FROM notes WHERE k = $1", (None,), (), ()),
    ("SELECT v FROM notes WHERE k = $1", (b"-7",), (), ()),
    ("SELECT v FROM notes WHERE k = $1", (b" 7 ",), (), ()),
    ("SELECT v FROM notes WHERE k = $1", (b"seven",), (), ()),
    ("SELECT v FROM notes WHERE k = $1", (b"7", b"8"), (), ()),
    ("SELECT v FROM notes WHERE k = $1", (b"7",), (0, 0), ()),
    ("SELECT v FROM notes WHERE k = $1", (b"7",), (), (1, 1)),
    ("SELECT n / 0 FROM notes WHERE k = $1", (b"7",), (), ()),
    ("SELECT n FROM words WHERE word = $1", (b"seven",), (), ()),
    ("SELECT count(*) FROM plain", (), (), ()),
    ("UPDATE notes SET v = $2 WHERE k = $1", (b"7", b"seven"), (), ()),
    ("UPDATE notes SET n = -1 WHERE k = $1", (b"7",), (), ()),
    ("INSERT INTO notes VALUES ($1, $2, 1)", (b"7", b"again"), (), ()),
]


@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("name", ["", "s"])
def test_pipelines_are_answered_the_same_byte_for_byte(client: WireClient, name: str, *, in_block: bool) -> None:
    client.query("INSERT INTO notes VALUES (7, 'seven', 7)")
    client.query("INSERT INTO words VALUES ('seven', 7)")
    for number, (text, values, formats, results) in enumerate(PIPELINES):
        statement = f"{name}{number}" if name else ""
        beginning = [] if name else [parse(text)]
        if name:
            client.ask(parse(text, statement), SYNC)
        for described in ([describe("P")], []):
            ending = [bind(*values, statement=statement, formats=formats, results=results), *described, execute(), SYNC]
            answers = []
            for before in ([FLUSH], [FLUSH], [], []):
                if in_block:
                    client.query("BEGIN")
                answers.append(raw(client, *before, *beginning, *ending))
                # In the block the portal is still there, and has no more rows.
                answers[-1] += raw(client, execute(), SYNC) if in_block else []
                client.query("ROLLBACK")
            assert answers[1:] == answers[:1] * 3, text


def test_pipelines_take_the_lane(lane: Lane, client: WireClient) -> None:
    client.ask(parse("SELECT n FROM notes WHERE k = $1", "s"), SYNC)
    insert = parse("INSERT INTO notes VALUES ($1, NULL, $2)")
    client.ask(insert, bind(b"1", b"1"), execute(), SYNC)
    for key in (b"%d" % key for key in range(2, 30)):
        client.ask(insert, bind(key, key), execute(), SYNC)
    before = lane.count()
    for key in (b"%d" % key for key in range(30, 50)):
        client.ask(insert, bind(key, key), execute(), SYNC)
    assert lane.count() - before == 20
    for key in (b"%d" % key for key in range(1, 50)):
        assert ("row", [key]) in client.ask(bind(key, statement="s"), describe("P"), execute(), SYNC)
    # The statement has to be prepared on each link first.
    assert lane.count() - before >= 20 + 49 - 3 * 3


def test_blocks_begin_in_the_extended_protocol_as_well(lane: Lane, connect: Callable[..., WireClient]) -> None:
    twins = Twins(connect(lane.town.one), connect(lane.town.dsn))
    first, second, _ = lane.town.spread
    twins.same(parse("BEGIN", "begin"), SYNC)
    twins.same(parse("COMMIT", "commit"), SYNC)
    for _ in range(TIMES):
        twins.same(bind(statement="begin"), describe("P"), execute(), SYNC)
        twins.same(parse("INSERT INTO notes VALUES ($1, $2, 1)"), bind(b"%d" % first, b"x"), execute(), SYNC)
        twins.same(parse("SELECT v FROM notes WHERE k = $1"), bind(b"%d" % first), describe("P"), execute(), SYNC)
        twins.same(parse("SELECT v FROM notes WHERE k = $1"), bind(b"%d" % second), describe("P"), execute(), SYNC)
        twins.same(bind(statement="commit"), describe("P"), execute(), SYNC)
        twins.same(bind(statement="commit"), execute(), SYNC)


def test_a_statement_prepared_again_is_the_new_one(client: WireClient) -> None:
    client.query("INSERT INTO notes VALUES (7, 'seven', 8)")
    for column, value in (("v", b"seven"), ("n", b"8")):
        client.ask(parse(f"SELECT {column} FROM notes WHERE k = $1", "s"), SYNC)
        for _ in range(TIMES):
            assert ("row", [value]) in client.ask(bind(b"7", statement="s"), execute(), SYNC)
        client.ask(close("S", "s"), SYNC)
        assert client.ask(bind(b"7", statement="s"), execute(), SYNC)[0][1]["C"] == "26000"


# --- blocks over several shards ----------------------------------------------------------------------------------


def warm(client: WireClient, first: int, second: int) -> None:
    """Teach the proxy the statements of a block over two shards."""
    for number in range(TIMES):
        client.query("BEGIN")
        for key in (first, second):
            client.query(f"UPDATE notes SET n = n + {number} WHERE k = {key}")
            client.query(f"SELECT n FROM notes WHERE k = {key}")
        client.query("ROLLBACK")


def test_statements_of_a_block_over_several_shards_take_the_lane(lane: Lane, client: WireClient) -> None:
    first, second, third = lane.town.spread
    for key in (first, second, third):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    warm(client, first, second)
    before = lane.count()
    client.query("BEGIN")
    for key in (first, second, third):
        assert client.query(f"UPDATE notes SET n = n + 5 WHERE k = {key}") == [("tag", "UPDATE 1"), ("ready", "T")]
        assert client.rows(f"SELECT n FROM notes WHERE k = {key}") == [("5",)]
    assert lane.count() - before == 7
    client.query("COMMIT")
    assert lane.town.stored("SELECT k, n FROM notes") == sorted((key, 5) for key in (first, second, third))


def test_what_somebody_else_has_prepared_is_settled_first(lane: Lane, client: WireClient) -> None:
    """The look finds a transaction of which this proxy knows nothing; undecided as it is, it holds nobody up."""
    first, second, _ = lane.town.spread
    for key in (first, second):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    warm(client, first, second)
    gid = "pgchorus:test:s0:01900000-0000-7000-8000-000000000000:s1"
    with psycopg.connect(lane.town.shards[1], autocommit=True) as other:
        other.execute(b"BEGIN")
        other.execute(b"LOCK TABLE kinds IN ACCESS SHARE MODE")
        other.execute(b"PREPARE TRANSACTION '" + gid.encode() + b"'")
        try:
            for text in (f"UPDATE notes SET n = n + 7 WHERE k = {second}", f"SELECT n FROM notes WHERE k = {second}"):
                client.query("BEGIN")
                client.query("SAVEPOINT here")
                client.query(f"UPDATE notes SET n = n + 1 WHERE k = {first}")
                expected = ("tag", "UPDATE 1") if text.startswith("U") else ("row", [b"7"])
                assert expected in client.query(text)
                assert client.query("ROLLBACK TO here") == [("tag", "ROLLBACK"), ("ready", "T")]
                assert expected in client.query(text)
                assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
        finally:
            other.execute(b"ROLLBACK PREPARED '" + gid.encode() + b"'")
    assert lane.town.stored("SELECT k, n FROM notes") == sorted([(first, 0), (second, 7)])


@pytest.mark.parametrize("again", [False, True], ids=["the first statement there", "a later one"])
def test_a_look_that_finds_something_has_run_nothing(lane: Lane, client: WireClient, *, again: bool) -> None:
    """It goes out in one packet with the statement, with BEGIN or behind a savepoint; and does so again later."""
    first, second, _ = lane.town.spread
    for key in (first, second):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    warm(client, first, second)
    gid = "pgchorus:test:s0:01900000-0000-7000-8000-000000000001:s1"
    add = "UPDATE notes SET n = n + 7 WHERE k = {}"
    for _ in range(2):
        with psycopg.connect(lane.town.shards[1], autocommit=True) as other:
            client.query("BEGIN")
            client.query(add.format(first))
            if again:
                assert client.query(add.format(second)) == [("tag", "UPDATE 1"), ("ready", "T")]
            other.execute(b"BEGIN")
            other.execute(b"LOCK TABLE kinds IN ACCESS SHARE MODE")
            other.execute(b"PREPARE TRANSACTION '" + gid.encode() + b"'")
            try:
                assert client.query(add.format(second)) == [("tag", "UPDATE 1"), ("ready", "T")]
                assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
            finally:
                other.execute(b"ROLLBACK PREPARED '" + gid.encode() + b"'")
        before = lane.count()
        client.query("BEGIN")
        for key in (first, second, first, second):
            assert client.query(add.format(key)) == [("tag", "UPDATE 1"), ("ready", "T")]
        client.query("ROLLBACK")
        assert lane.count() - before == 5  # BEGIN among them
    assert lane.town.stored("SELECT k, n FROM notes") == sorted([(first, 14), (second, 28 if again else 14)])


def test_an_error_lets_go_of_the_other_shards_locks(lane: Lane, client: WireClient) -> None:
    first, second, _ = lane.town.spread
    for key in (first, second):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    warm(client, first, second)
    client.query("BEGIN")
    client.query(f"UPDATE notes SET n = n + 1 WHERE k = {first}")
    *_, error, ready = client.query(f"UPDATE notes SET n = n + 2147483647 + 1 WHERE k = {second}")
    assert (error[1]["C"], ready) == ("22003", ("ready", "E"))
    with psycopg.connect(lane.town.shards[0], autocommit=True) as other:
        other.execute(b"SET lock_timeout = '5s'")
        other.execute(b"UPDATE notes SET n = 9 WHERE k = %d" % first)
    assert client.query("COMMIT") == [("tag", "ROLLBACK"), ("ready", "I")]
    assert lane.town.stored("SELECT k, n FROM notes") == sorted([(first, 9), (second, 0)])


def test_a_blocks_time_is_one_on_all_shards(lane: Lane, client: WireClient) -> None:
    """The clock's value is filled in on the lane as well; outside a block the shard says what time it is."""
    first, second, third = lane.town.spread
    client.query("CREATE TABLE made (k int8, at timestamptz)")
    try:
        for key in range(TIMES):
            client.query("BEGIN")
            client.query(f"INSERT INTO made (k, at) VALUES ({key}, CURRENT_TIMESTAMP)")
            client.query("COMMIT")
        client.query("TRUNCATE made")
        before = lane.count()
        client.query("SET timezone = 'Asia/Kolkata'")
        client.query("SET datestyle = 'SQL, DMY'")
        client.query("BEGIN")
        for key in (first, second, third):
            client.query(f"INSERT INTO made (k, at) VALUES ({key}, CURRENT_TIMESTAMP)")
        client.query("COMMIT")
        assert lane.count() - before == 5
        assert lane.town.stored("SELECT k FROM made") == sorted((key,) for key in (first, second, third))
        times = lane.town.stored("SELECT at FROM made WHERE now() - at BETWEEN '0' AND '1 minute'")
        assert len(times) == 3
        assert len(set(times)) == 1
    finally:
        client.query("DROP TABLE made")


# --- COMMIT ------------------------------------------------------------------------------------------------------


def test_commit_of_one_shard_takes_the_lane(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(1)[0]
    for number in range(TIMES + 1):
        before = lane.count()
        client.query("BEGIN")
        client.query(f"INSERT INTO notes VALUES ({key + 100_000 * number}, NULL, 1) ON CONFLICT DO NOTHING")
        assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
        client.query("BEGIN")
        client.query(f"SELECT n FROM notes WHERE k = {key}")
        assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
    assert lane.count() - before >= 5
    assert len(lane.town.stored("SELECT k FROM notes")) == TIMES + 1


def test_a_commit_that_fails_says_what_postgres_says(lane: Lane, connect: Callable[..., WireClient]) -> None:
    """A deferred constraint fails at COMMIT; by Query and by a prepared COMMIT."""
    twins = Twins(connect(lane.town.one), connect(lane.town.dsn))
    twins.same(parse("COMMIT", "commit"), SYNC)
    commits = [[Query(b"COMMIT")], [bind(statement="commit"), describe("P"), execute(), SYNC]]
    for number in range(TIMES + 1):
        for commit in commits:
            before = lane.count()
            twins.query("BEGIN")
            twins.query(f"INSERT INTO children VALUES (77, {number})")
            assert "error" in [entry[0] for entry in twins.same(*commit)]
            twins.query(f"SELECT id FROM children WHERE parent = 77 AND id = {number}")
    assert lane.count() - before >= 3


def test_a_commit_whose_link_is_lost_is_unknown(lane: Lane, client: WireClient) -> None:
    key = lane.town.keys(1)[0]
    trigger = """
        CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(100); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER dozes AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (new.v = 'doze') EXECUTE FUNCTION doze()
    """
    for number in range(TIMES):
        client.query("BEGIN")
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, {number}) ON CONFLICT DO NOTHING")
        client.query("COMMIT")
    with psycopg.connect(lane.town.shards[1], autocommit=True) as shard:
        shard.execute(trigger.encode())  # behind the proxy's back, so that it knows of no function
        try:
            client.query("BEGIN")
            client.query(f"UPDATE notes SET n = 5 WHERE k = {key}")
            insert = parse("INSERT INTO notes VALUES ($1, $2, 1)")
            client.ask(insert, bind(b"%d" % lane.town.keys(1, 2)[1], b"doze"), execute(), SYNC)
            client.send(Query(b"COMMIT"))
            kill = b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            eventually(lambda: shard.execute(kill).fetchall(), "COMMIT did not reach the shard")
            *_, error, ready = client.read()
        finally:
            shard.execute(b"DROP TRIGGER dozes ON notes; DROP FUNCTION doze()")
    assert (error[1]["C"], ready) == ("08007", ("ready", "I"))
    assert client.rows(f"SELECT n FROM notes WHERE k = {key}") == [("0",)]
