"""COPY FROM that fails, beside one Postgres: by CopyFail, and by a timeout while it waits for data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from transcripts import Sequence, play
from waiting import eventually
from wire_client import FLUSH, SYNC, bind, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import Twins, WireClient

    Connect = Callable[..., WireClient]

ROWS = [b"%d\tx\n" % key for key in range(1, 9)]


@pytest.mark.parametrize("options", ["", " (header)", " (format csv, delimiter E'\\t')"])
@pytest.mark.parametrize(
    "data",
    [
        [],
        ROWS[:1],
        ROWS,
        [b"".join(ROWS)],
        [ROWS[0], ROWS[1][:3]],
        [ROWS[0][:2]],
        [b"9\ta\\\nb\n", ROWS[1]],
        [b'9\t"a\nb"\n', ROWS[1]],
        [b'9\t"a\nb', b"c\n"],
        [b"h\tb\n"],
        [b"\\.\n"],
        [ROWS[0], b"\\.\n"],
    ],
)
def test_its_context_has_the_clients_line(twins: Twins, options: str, data: list[bytes]) -> None:
    twins.same(Query(f"copy notes (k, v) from stdin{options}".encode()), until="G")
    twins.same(*(frame(b"d", part) for part in data), frame(b"f", b"no more\0"))
    twins.query("select count(*) from notes")


BAD, GOOD = frame(b"d", b"11\tx\nzz\tx\n"), frame(b"d", b"12\tx\n13\ty\n")
UNKNOWN = frame(b"z", b"")
WASH_S = 4  # less than what a link has to come back to itself (pool.wash_timeout_s)


@pytest.mark.parametrize("ways", ["simple", "extended", "several"])
@pytest.mark.parametrize("table", ["notes (k, v)", "plain (id, v)", "kinds (id, name)"])
@pytest.mark.parametrize(
    "rest",
    [
        [BAD, GOOD, Query(b"select 1")],
        [GOOD, Query(b"select 1")],
        [Query(b"select 1")],
        [frame(b"d", b"11\tx\n12"), Query(b"select 1")],
        [frame(b"d", b"11\tx\n11\ty\n"), Query(b"select 1")],
        [BAD, GOOD, parse("select 1"), bind(), execute(), SYNC],
        [GOOD, parse("select 1"), bind(), execute(), SYNC],
        [BAD, GOOD, frame(b"X", b"")],
        [GOOD, frame(b"X", b"")],
        [BAD, GOOD, UNKNOWN],
        [GOOD, UNKNOWN],
        [GOOD, FLUSH, SYNC, Query(b"select 1")],
    ],
)
def test_a_message_that_has_no_place_in_it(any_town: Town, rest: list[Any], table: str, ways: str) -> None:
    """If a row before it cannot be read, the COPY is over, and the message one like others."""
    copy = f"copy {table} from stdin"
    begin = {
        "simple": [Query(copy.encode())],
        "extended": [parse(copy), bind(), execute()],
        "several": [Query(f"insert into plain values (99, 'x'); {copy}; select 2".encode())],
    }[ways]
    sequence = Sequence("misplaced", (*begin, *rest))
    expected, got = (play(dsn, sequence) for dsn in (any_town.one, any_town.dsn))
    assert got == expected


@pytest.mark.parametrize("behind", [[SYNC], [SYNC, GOOD], [GOOD]], ids=["sync", "row", "no sync"])
@pytest.mark.parametrize("shards", ["narrow_town", "pair_town"])
def test_who_leaves_in_the_middle_keeps_no_link(
    request: pytest.FixtureRequest, connect: Connect, behind: list[Any], shards: str
) -> None:
    """A Sync among the data was ignored: behind CopyFail the server waits for another one."""
    town: Town = request.getfixturevalue(shards)
    other = connect(town.dsn)
    for _ in range(2 if shards == "pair_town" else 1):  # the pool has no more
        client = connect(town.dsn)
        client.send(parse("copy plain (id, v) from stdin"), bind(), execute(), *behind)
        client.read("G")
        client.vanish()
    begun = time.monotonic()
    assert other.rows("select 1 from plain") == []
    assert time.monotonic() - begun < WASH_S


SLOW = "select from pg_stat_activity where wait_event = 'ClientWrite' and datname = current_database()"
COPY = Query(b"copy notes (k, v) from stdin")
KEEPS = {
    "create temp table tt (a int)": "select a from tt",
    "listen x": "select * from pg_listening_channels()",
    "select pg_advisory_lock(81)": "select pg_advisory_unlock(81)",
}


def late(client: WireClient, rows: list[bytes]) -> list[str]:
    """Give a COPY its rows when its time is up; returns what the client is told."""
    client.send(COPY)
    client.read("G")
    # What is tested is time that passes: the servers' timers, which nothing shows from outside, began before this.
    time.sleep(0.15)
    return sqlstates(client.ask(*(frame(b"d", row) for row in rows), frame(b"c", b"")))


@pytest.mark.parametrize(
    "copy", [[Query(b"copy plain from stdin")], [parse("copy plain from stdin"), bind(), execute()]]
)
@pytest.mark.parametrize("where", ["narrow_town", "pair_town"])
def test_a_timeout_that_copy_does_not_notice_hits_nobody_else(
    request: pytest.FixtureRequest, connect: Connect, where: str, copy: list[Any]
) -> None:
    """Without a row Postgres does not notice it before the next statement: that must not be another client's."""
    town: Town = request.getfixturevalue(where)
    client, *others = (connect(town.dsn) for _ in range(3))
    client.query("set statement_timeout = 50")
    for _ in range(3):
        client.send(*copy)
        client.send(*([FLUSH] if len(copy) > 1 else []))
        client.read("G")
        time.sleep(0.15)
        client.send(frame(b"c", b""), *([SYNC] if len(copy) > 1 else []))
        client.read()
        for other in others:
            other.rows("select count(*) from plain")


def test_a_timeout_while_a_client_is_slow_to_read_hits_nobody_else(pair_town: Town, connect: Connect) -> None:
    """RETURNING sends its rows when all of them are there, and looks at no timeout meanwhile."""
    client, other, third = (connect(pair_town.dsn) for _ in range(3))
    client.query("set statement_timeout = '2s'")
    client.send(Query(b"insert into notes select g, repeat('x', 1000) from generate_series(1, 30000) g returning *"))
    eventually(lambda: pair_town.on_shard(0, SLOW))
    time.sleep(2)
    tail = b""
    while not tail.endswith(b"Z\0\0\0\5I"):
        tail = (tail + client.socket.recv(1 << 20))[-100:]
    assert b"INSERT 0 30000" in tail
    for one in (other, third):
        one.rows("select 1")


@pytest.mark.parametrize("keeps", KEEPS)
def test_what_ends_it_while_it_waits_for_data_takes_nothing_from_the_session(
    narrow_town: Town, connect: Connect, keeps: str
) -> None:
    """Shards that get no row behind it have no occasion to notice: it hits the ROLLBACK there."""
    for rows in ([f"{key}\tx\n".encode()] for key in narrow_town.spread):
        for dsn in (narrow_town.one, narrow_town.dsn):
            client = connect(dsn)
            client.query(keeps)
            client.query("set statement_timeout = 50")
            assert late(client, rows) == ["57014"]
            assert not sqlstates(client.query(KEEPS[keeps]))
            client.close()
            assert connect(dsn).rows("select count(*) from notes") == [("0",)]


def test_a_block_goes_back_to_its_savepoint_behind_it(narrow_town: Town, connect: Connect) -> None:
    for rows in ([f"{key}\tx\n".encode()] for key in narrow_town.spread):
        for dsn in (narrow_town.one, narrow_town.dsn):
            client = connect(dsn)
            client.query("begin; savepoint a")
            client.query("set local statement_timeout = 50")
            assert late(client, rows) == ["57014"]
            assert not sqlstates(client.query("rollback to a"))
            assert client.rows("select count(*) from notes") == [("0",)]
            client.query("rollback")
            client.close()


def test_a_commit_that_a_timeout_has_failed_beside_a_cancel_says_so(any_town: Town, connect: Connect) -> None:
    """A cancel that came too late is ignored; what waits for it must not lose the error of the timeout."""
    for dsn in (any_town.one, any_town.dsn):
        for cancelled in (False, True):
            client = connect(dsn)
            client.query("begin")
            client.query("insert into plain values (1, 'x')")
            client.query("set local statement_timeout = 50")
            client.send(Query(b"copy plain from stdin"))
            client.read("G")
            if cancelled:
                client.cancel()
            time.sleep(0.15)  # as above
            assert client.ask(frame(b"c", b""))[0] == ("tag", "COPY 0")
            assert sqlstates(client.query("commit")) == ["57014"]
            client.query("rollback")
            assert client.rows("select count(*) from plain") == [("0",)]
            client.close()
