"""COMMIT over several shards on the fast lane: taken, told as one Postgres tells it, and all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import SYNC, Twins, WireClient, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lane

TIMES = 3  # the second text of a template teaches it
COMMITS = {
    "simple": [Query(b"COMMIT")],
    "prepared": [bind(statement="commit"), describe("P"), execute(), SYNC],
    "extended": [parse("COMMIT"), bind(), describe("P"), execute(), SYNC],
}


@pytest.fixture
def client(lane: Lane, connect: Callable[..., WireClient]) -> WireClient:
    made = connect(lane.town.dsn)
    made.ask(parse("COMMIT", "commit"), SYNC)
    know_the_keys(lane, made)
    return made


def know_the_keys(lane: Lane, client: WireClient) -> None:
    """Commit until each shard has been the commit point, which is drawn: then the proxy knows the keys of all."""
    made = "SELECT count(*) FROM pgchorus.decision WHERE outcome = 'commit'"
    keys = lane.town.spread
    while not all(found for ((found,),) in lane.town.everywhere(made)):
        for key in keys:
            client.query("BEGIN" if key == keys[0] else "")
            client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
        client.query("COMMIT")
        lane.town.empty()


def add(client: WireClient, keys: tuple[int, ...], by: int) -> None:
    """Open a block and add to rows."""
    client.query("BEGIN")
    for key in keys:
        client.query(f"UPDATE notes SET n = n + {by} WHERE k = {key}")


@pytest.mark.parametrize("how", COMMITS)
def test_it_takes_the_lane_and_is_there_on_every_shard(lane: Lane, client: WireClient, how: str) -> None:
    keys = lane.town.spread
    for key in keys:
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    for number in range(TIMES + 1):
        add(client, keys, number)
        before = lane.count()
        assert client.ask(*COMMITS[how])[-2:] == [("tag", "COMMIT"), ("ready", "I")]
    assert lane.count() - before == 1
    assert lane.town.stored("SELECT k, n FROM notes") == sorted((key, sum(range(TIMES + 1))) for key in keys)
    assert client.query("COMMIT")[-1] == ("ready", "I")  # a warning: there is no transaction any more


def test_a_shard_that_was_only_read_is_let_go(lane: Lane, client: WireClient) -> None:
    first, second, third = lane.town.spread
    for key in (first, second, third):
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    for number in range(TIMES + 1):
        before = lane.count()
        add(client, (first, second), number)
        client.query(f"SELECT n FROM notes WHERE k = {third}")
        assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
    assert lane.count() - before == 5
    assert not lane.town.busy()


@pytest.mark.parametrize("how", COMMITS)
def test_what_fails_at_commit_is_told_and_undone_everywhere(
    lane: Lane, connect: Callable[..., WireClient], how: str
) -> None:
    """A deferred constraint fails in step 1, by turns at a participant and at the commit point, which is drawn."""
    twins = Twins(connect(lane.town.one), connect(lane.town.dsn))
    twins.same(parse("COMMIT", "commit"), SYNC)
    first, second, _ = lane.town.spread
    for number in range(12):
        before = lane.count()
        twins.query("BEGIN")
        twins.query(f"INSERT INTO children VALUES ({first}, {number})")
        twins.query(f"INSERT INTO notes VALUES ({second}, NULL, {number})")
        answer = twins.same(*COMMITS[how])
        assert answer[-2][1]["C"] == "23503"
        assert answer[-1] == ("ready", "I")
        twins.query(f"SELECT n FROM notes WHERE k = {second}")
    assert lane.count() - before >= 4
    assert lane.town.stored("SELECT parent FROM children") == []
    assert lane.town.stored("SELECT k FROM notes") == []


def test_settings_are_what_they_were_after_a_commit_that_failed(lane: Lane, client: WireClient) -> None:
    """PREPARE keeps what its ROLLBACK PREPARED does not undo: the next user of the link must not find it."""
    first, second, _ = lane.town.spread
    for number in range(12):
        client.query("BEGIN")
        client.query(f"INSERT INTO children VALUES ({first}, {number})")
        client.query(f"INSERT INTO notes VALUES ({second}, NULL, {number})")
        client.query("SET LOCAL work_mem = '7MB'")
        *_, error, ready = client.query("COMMIT")
        assert (error[1]["C"], ready) == ("23503", ("ready", "I"))
        for key in (first, second):
            assert client.rows(f"SELECT current_setting('work_mem'), {key} FROM kinds") == []
            text = f"SELECT current_setting('work_mem') FROM generate_series(1, 1) LEFT JOIN notes ON k = {key}"
            assert client.query(text)[-1] == ("ready", "I")


def test_what_waits_behind_a_commit_is_handled_after_it(lane: Lane, client: WireClient) -> None:
    keys = lane.town.spread
    for key in keys:
        client.query(f"INSERT INTO notes VALUES ({key}, NULL, 0)")
    for number in range(TIMES):
        add(client, keys, number)
        client.query("COMMIT")
    add(client, keys, 5)
    client.send(Query(b"COMMIT"), Query(f"SELECT n FROM notes WHERE k = {keys[0]}".encode()))
    assert client.read() == [("tag", "COMMIT"), ("ready", "I")]
    assert ("row", [b"8"]) in client.read()


def test_a_commit_point_that_dies_is_asked_for_the_outcome(lane: Lane, client: WireClient) -> None:
    """A deferred trigger keeps step 1 waiting on one shard; its backend is ended, and nothing is there."""
    first, second, _ = lane.town.spread
    trigger = """
        CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(100); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER dozes AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (new.v = 'doze') EXECUTE FUNCTION doze()
    """
    for number in range(TIMES):
        for key in (first, second):
            client.query(f"INSERT INTO notes VALUES ({key}, NULL, {number}) ON CONFLICT DO NOTHING")
    insert = parse("INSERT INTO notes VALUES ($1, $2, 1)")
    sleeper = lane.town.keys(1, 2)[1]
    with psycopg.connect(lane.town.shards[1], autocommit=True) as shard:
        shard.execute(trigger.encode())  # behind the proxy's back, so that it knows of no function
        try:
            add(client, (first,), 5)
            client.ask(insert, bind(b"%d" % sleeper, b"doze"), execute(), SYNC)
            before = lane.count()
            client.send(Query(b"COMMIT"))
            kill = b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            eventually(lambda: shard.execute(kill).fetchall(), "COMMIT did not reach the shard")
            *_, error, ready = client.read()
        finally:
            shard.execute(b"DROP TRIGGER dozes ON notes; DROP FUNCTION doze()")
    assert (error[1]["C"], ready) == ("57P01", ("ready", "I"))
    assert lane.count() - before == 1
    assert sleeper not in [key for (key,) in lane.town.stored("SELECT k FROM notes")]
    assert client.rows(f"SELECT n FROM notes WHERE k = {first}") == [("0",)]


def test_the_clock_is_filled_in_for_pipelines_as_well(lane: Lane, client: WireClient) -> None:
    """In a block it has one value on all shards, whether the statement is parsed each time or prepared."""
    keys = lane.town.spread
    client.query("CREATE TABLE made (k int8, n int4, at timestamptz)")
    text = "INSERT INTO made (n, k, at) VALUES ($2, $1, CURRENT_TIMESTAMP)"
    client.ask(parse(text, "s"), SYNC)
    try:
        for prepared in (True, False):
            for _ in range(TIMES):
                client.query("TRUNCATE made")
                client.query("BEGIN")
                before = lane.count()
                for key in keys:
                    beginning = [] if prepared else [parse(text)]
                    values = bind(
                        b"%d" % key, (5).to_bytes(4, "big"), statement="s" if prepared else "", formats=(0, 1)
                    )
                    assert ("tag", "INSERT 0 1") in client.ask(*beginning, values, describe("P"), execute(), SYNC)
                taken = lane.count() - before
                assert client.query("COMMIT") == [("tag", "COMMIT"), ("ready", "I")]
            assert taken == 3
            assert lane.town.stored("SELECT k, n FROM made") == sorted((key, 5) for key in keys)
            times = lane.town.stored("SELECT at FROM made WHERE now() - at BETWEEN '0' AND '1 minute'")
            assert len(times) == 3
            assert len(set(times)) == 1
        # Outside of a block a shard says what time it is; the answers are the same.
        for _ in range(TIMES):
            answer = client.ask(bind(b"%d" % keys[0], b"5", statement="s"), describe("P"), execute(), SYNC)
            assert ("tag", "INSERT 0 1") in answer
    finally:
        client.query("DROP TABLE made")
