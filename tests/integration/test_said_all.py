"""What a client has sent before it hung up is done to its end, as by Postgres, and answered if it still listens."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query, Terminate
from waiting import eventually
from wire_client import SYNC, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

SLOW = Query(b"select pg_sleep(0.2)")
ROWS = Query(b"insert into plain values (1, 'x')"), Query(b"insert into plain values (2, 'y')")
EXTENDED = [one for query in ROWS for one in (parse(query.text.decode()), bind(), execute())]
SENT = {
    "one": [ROWS[0]],
    "slow": [Query(b"insert into plain select 1, pg_sleep(0.2)::text")],
    "several": [SLOW, *ROWS],
    "block": [Query(b"begin"), *ROWS, SLOW, Query(b"commit")],
    "open block": [Query(b"begin"), *ROWS],
    "pipeline": [parse("select pg_sleep(0.2)"), bind(), execute(), *EXTENDED, SYNC],
    "copy": [Query(b"copy plain from stdin"), frame(b"d", b"1\tx\n2\ty\n"), frame(b"c", b"")],
    "cut off": [*ROWS, frame(b"Q", b"delete from plain\0")[:-3]],
}


def rows(client: WireClient) -> list[str | None]:
    return [number for (number,) in client.rows("select id from plain order by id")]


# Where an answer finds the socket closed, Postgres too stops at the next one.
ANSWERED_ONCE = ("one", "slow", "pipeline", "copy", "open block")
WAYS = [(name, way) for name in SENT for way in ("half", "terminate and listen")] + [
    (name, way) for name in ANSWERED_ONCE for way in ("close", "terminate")
]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_what_was_sent_is_done(any_town: Town, connect: Connect, name: str, way: str) -> None:
    found = []
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        client.send(*SENT[name], *([Terminate()] if "terminate" in way else []))
        if way in ("half", "terminate and listen"):
            client.socket.shutdown(socket.SHUT_WR)
            answers = b""
            while got := client.socket.recv(1 << 16):
                answers += got
            found.append((answers.count(b"INSERT 0 1"), answers.count(b"COPY 2"), answers.count(b"Z\0\0\0\5")))
        client.close()
    first, second = connect(any_town.one), connect(any_town.dsn)
    done = ["1", "2"] if name in ("several", "block", "pipeline", "copy", "cut off") else ["1"]
    expected = [] if name == "open block" else done
    eventually(lambda: rows(first) == expected, "Postgres itself does otherwise")
    eventually(lambda: rows(second) == expected and not any_town.busy(), "what was sent is not done")
    assert found[:1] == found[1:]


COPY = Query(b"copy plain from stdin")
ROW, BAD = frame(b"d", b"1\tx\n2\ty\n"), frame(b"d", b"one\tx\n")
IN_COPY = {
    "no row": [COPY],
    "rows": [COPY, ROW],
    "half a row": [COPY, ROW, frame(b"d", b"3")],
    "half a message": [COPY, ROW, ROW[:-3]],
    "a row that cannot be read": [COPY, ROW, BAD],
    "block": [Query(b"begin"), ROWS[0], COPY],
    "several statements": [Query(b"select 1; copy plain from stdin; select 2"), ROW],
    "pipeline": [parse("copy plain from stdin"), bind(), execute(), ROW],
    "pipeline with Sync": [parse("copy plain from stdin"), bind(), execute(), SYNC, ROW],
    "by key": [Query(b"copy notes (k, v) from stdin"), ROW],
    "by key, a row that cannot be read": [Query(b"copy notes (k, v) from stdin"), BAD],
}


@pytest.mark.parametrize("name", IN_COPY)
@pytest.mark.parametrize("pieces", [True, False])
def test_who_says_no_more_in_a_copy_is_told(any_town: Town, connect: Connect, name: str, *, pieces: bool) -> None:
    found = []
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        if pieces:
            for message in IN_COPY[name]:
                client.send(message)
        else:
            client.send(*IN_COPY[name])
        client.socket.shutdown(socket.SHUT_WR)
        found.append(client.read_to_end())
    assert found[1] == found[0]
    for dsn in (any_town.one, any_town.dsn):
        assert connect(dsn).rows("select (select count(*) from plain), (select count(*) from notes)") == [("0", "0")]
    eventually(lambda: not any_town.busy(), "what nobody goes on with is still there")


@pytest.mark.parametrize("text", ["select generate_series(1, 1000000000)", "copy (table plain) to stdout"])
@pytest.mark.parametrize("behind", [Terminate(), Query(b"insert into plain values (0, 'x')")])
def test_an_answer_that_nobody_hears_ends(any_town: Town, connect: Connect, text: str, behind: object) -> None:
    """As one Postgres does, where it writes to a client that is gone."""
    client = connect(any_town.dsn)
    client.query("insert into plain select g, repeat('x', 1000) from generate_series(1, 60000) g")
    leaver = connect(any_town.dsn)
    leaver.send(Query(text.encode()), behind)
    leaver.socket.recv(100)
    leaver.vanish()
    eventually(lambda: not any_town.busy(), "what nobody hears goes on")
    assert client.rows("select id from plain where id = 0") == []
